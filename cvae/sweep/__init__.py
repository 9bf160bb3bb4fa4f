"""Many runs: handed to local processes or to Ray."""
