"""Measuring: what the method costs, against the plain call and the naive way."""
