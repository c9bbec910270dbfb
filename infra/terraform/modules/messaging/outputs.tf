output "topics" {
  description = "Ids of the topics by name."
  value       = { for name, topic in google_pubsub_topic.topic : name => topic.id }
}
