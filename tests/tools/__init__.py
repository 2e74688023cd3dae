"""What tests and load tests share: faults as context managers, judges, a Flue server. Knows no test."""
