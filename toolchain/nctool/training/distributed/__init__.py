"""Training by several processes, with the same result as by one."""
