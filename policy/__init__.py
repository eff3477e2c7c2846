"""Language models: loading, log-probabilities, sampling, rollouts and the PPO formulas."""
