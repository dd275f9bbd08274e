"""From the model's folder to what another library reads: exported, quantised, kept in a cache."""
