"""What AsynDM is: settings, clocks, rules, masks, the run, words. Pure tensors and text."""
