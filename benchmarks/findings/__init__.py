"""Whether the published findings hold for a small family of networks on embedded data, in one command."""
