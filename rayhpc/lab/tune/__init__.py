"""`rayhpc lab tune`: the tunables of a configuration become a sweep whose trials are `rayhpc lab train`."""
