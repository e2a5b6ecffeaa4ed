"""Learning a text in one pass: the compiled program, its records, its learning curve and what the model writes."""
