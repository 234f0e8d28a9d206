"""How channels hang together in a Keras network, and how they are taken out."""
