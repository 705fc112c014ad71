"""The paper's ablations (section 4.4, tables 7 to 10) in small: trained, measured and told side by side."""
