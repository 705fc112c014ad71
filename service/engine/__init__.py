"""The networks of one replica, on torch."""
