"""Training by several processes that computes what one computes."""
