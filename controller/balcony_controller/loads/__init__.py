"""What budgets are kept by: accounts of tokens, meters of loads, and the watts that batteries and heat allow."""
