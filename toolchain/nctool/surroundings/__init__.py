"""What nctool finds where it runs: the machine, the libraries, and which engines work here and why not."""
