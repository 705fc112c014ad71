"""The commands of training: `omnitok data`, `omnitok train`, `omnitok evaluate`."""
