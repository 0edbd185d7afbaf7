"""How far the predictions of a model can be believed on a section, learned from spots held out of its training."""
