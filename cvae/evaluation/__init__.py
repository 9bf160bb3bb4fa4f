"""What a reviewer asks of a trained model: estimators, each with its own error."""
