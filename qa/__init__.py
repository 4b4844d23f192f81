"""What tests the tests: long fuzz runs, mutants, coverage. Each has a make target; `make test` runs none of them."""
