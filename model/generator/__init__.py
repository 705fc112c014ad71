"""Networks that generate the codes of a tokenizer, and their sampling."""
