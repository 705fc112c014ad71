"""The service on Ray: replicas, and the cluster that they run on."""
