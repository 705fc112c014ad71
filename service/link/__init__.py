"""The way between ingress and tokenizer processes of one node: shared memory for arrays, a Unix socket for messages."""
