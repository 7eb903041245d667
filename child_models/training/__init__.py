"""How a child is trained: recipes, the loop, CUDA graphs, turns, what became of activations."""
