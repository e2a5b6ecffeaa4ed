"""Small helpers that know nothing of recurrent networks: checks, trees, files, devices, errors."""
