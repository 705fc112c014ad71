"""The commands of the training room: `omnitok data`, `omnitok train`, `omnitok evaluate`."""
