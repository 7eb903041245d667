"""What is known of a function without training it: equality, values, properties, names."""
