"""Training of generators: codes extracted once with a tokenizer, steps of the language model and of diffusion."""
