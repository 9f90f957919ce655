"""Record the operations of a network and bound the Jacobian of each, for `models.smoothness`."""
