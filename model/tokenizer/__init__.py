"""The joint image-video tokenizer (section 3.1) and its configuration."""
