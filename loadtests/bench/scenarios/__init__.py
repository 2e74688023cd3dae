"""What is measured: one file a question. A scenario measures one peer once; rounds and peers are the runner's."""
