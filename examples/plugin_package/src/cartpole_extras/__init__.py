"""One component of each kind for sb3-toolkit, used on CartPole."""
