"""The embedded model: a small world of scenes, its text, network, training, checker and weights."""
