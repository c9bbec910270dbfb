"""`dualdeploy`: the one program for people who try, run and deploy this system."""
