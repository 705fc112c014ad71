"""The paper's ablations (section 4.4, tables 7 to 10) in small: a runner, and a table with the paper's figures."""
