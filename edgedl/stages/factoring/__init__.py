"""Low-rank factors of layers: numpy decompositions, the choice of ranks, what a layer's inputs look like."""
