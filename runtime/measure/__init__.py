"""What a model costs here: time (`latency`, `cold`, summed up by `statistics`), energy (`energy`), and on what (`machine`)."""
