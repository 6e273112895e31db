"""Golden model, torch reference, simulated gateware, benches and the training of the models."""
