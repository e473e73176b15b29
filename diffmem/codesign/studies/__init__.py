"""What a mix asks of a machine: worths, accounts, what-ifs, designs."""
