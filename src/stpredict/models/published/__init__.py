"""Models that others trained and published, behind our contract: fixed weights, their encoder, their scale."""
