"""Features put to work on a running model: steer, attribute, search, watch."""
