"""What `pisync init-production` makes: the secrets, certificates and access files of a production set-up."""
