"""From a configuration to a trained state."""
