"""The demo data and the packaged networks: fetched, recorded and written as sets that training reads."""
