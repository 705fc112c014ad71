"""The dashboards of deploy/grafana, which this writes and can draw."""
