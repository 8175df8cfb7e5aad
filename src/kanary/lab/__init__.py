"""Problems whose answer is known: activations made of planted features, and how much of them an SAE finds again."""
