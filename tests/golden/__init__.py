"""Golden numbers of the neural models: the reference's weights recipe, inputs and outputs lie in `data`."""
