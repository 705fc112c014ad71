"""Pictures and clips to pixels and back: one reader and writer for training, evaluation, command and service."""
