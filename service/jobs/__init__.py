"""Jobs: work that outlives the request that asked for it, with its records, its files and its workers."""
