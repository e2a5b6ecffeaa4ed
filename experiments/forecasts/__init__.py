"""Series forecast while they are learned; of no paper."""
