// Which of the two models answers: the router of @dualdeploy/client for iOS 15 and macOS 12 on.
// NOT RUN: no Swift compiler was to be had where this was written. The same in Kotlin and JavaScript is held to
// shared/fixtures/routing_cases.tsv; run that table on this file before you trust it.

import Foundation

/// Names as in Firebase AI Logic.
public enum InferenceMode: String, Codable, Sendable {
  case preferOnDevice = "prefer_on_device"
  case preferInCloud = "prefer_in_cloud"
  case onlyOnDevice = "only_on_device"
  case onlyInCloud = "only_in_cloud"
}

public enum InferenceSource: String, Sendable { case onDevice = "on_device", inCloud = "in_cloud" }

/// What a model says to a picture; `probabilities` by label.
public struct Prediction: Sendable {
  public var label: String
  public var confidence: Double
  public var probabilities: [String: Double] = [:]
  public var modelVersion = ""

  public init(label: String, confidence: Double, probabilities: [String: Double] = [:], modelVersion: String = "") {
    self.label = label
    self.confidence = confidence
    self.probabilities = probabilities
    self.modelVersion = modelVersion
  }
}

/// What the phone's model said; `kept`: how many of its answers stood without asking, since the cloud answered last.
public struct PhoneSaid: Sendable {
  public var prediction: Prediction
  public var kept: Int

  /// For the gateway's log: how often both agree, and which share is asked about, are known without keeping a picture.
  public var headers: [String: String] {
    let unreserved = CharacterSet(charactersIn: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
    var found = [
      "X-Phone-Label": prediction.label.addingPercentEncoding(withAllowedCharacters: unreserved) ?? "",
      "X-Phone-Confidence": String(prediction.confidence),
      "X-Phone-Kept": String(kept),
    ]
    if !prediction.modelVersion.isEmpty { found["X-Phone-Version"] = prediction.modelVersion }
    return found
  }
}

/// Counts across the copies of a router.
public actor Kept {
  private(set) var count = 0

  func add(_ more: Int) { count += more }
}

/// `asked`: why the cloud was asked ("unsure", "label"). `fallback`: why not the preferred model answers ("timeout",
/// "network", "busy", "server", "refused", "breaker", "no_device_model", or what `mayAsk` said).
public struct Answer: Sendable {
  public var prediction: Prediction
  public var source: InferenceSource
  public var asked: String? = nil
  public var fallback: String? = nil
  public var onDevice: Prediction? = nil
  public var latency: TimeInterval = 0
}

/// A cloud that does not answer; `status` is HTTP's, 0 without one; `retryAfter` in seconds.
public struct CloudUnavailable: Error, Sendable {
  public var reason: String
  public var status = 0
  public var retryAfter: TimeInterval = 0

  public init(_ reason: String, status: Int = 0, retryAfter: TimeInterval = 0) {
    self.reason = reason
    self.status = status
    self.retryAfter = retryAfter
  }

  /// 400, 401 and 413 are the app's fault, and say nothing of the cloud.
  var isOfTheCloud: Bool { status < 400 || status == 429 || status >= 500 }
}

/// Closed, until `failures` in a row; then open for `seconds`, twice as long each time, until one request gets through.
public actor Breaker {
  private let failures: Int
  private let seconds, longest: TimeInterval
  private let now: @Sendable () -> TimeInterval
  private var count = 0
  private var until: TimeInterval?
  private var isTried = false
  private var pause: TimeInterval

  public init(
    failures: Int = 3, seconds: TimeInterval = 30, longest: TimeInterval = 600,
    now: @escaping @Sendable () -> TimeInterval = { ProcessInfo.processInfo.systemUptime }
  ) {
    self.failures = failures
    self.seconds = seconds
    self.longest = longest
    self.now = now
    pause = seconds
  }

  /// Whether a request may be sent; of those that come after a pause, one.
  func begin() -> Bool {
    if isTried { return false }
    if let until, now() < until { return false }
    isTried = until != nil
    return true
  }

  func succeeded() {
    count = 0
    until = nil
    pause = seconds
    isTried = false
  }

  /// Whoever says when to come again is believed at once.
  func failed(retryAfter: TimeInterval) {
    count += 1
    isTried = false
    let isOver = count >= failures
    let wait = max(min(retryAfter, longest), isOver ? pause : 0)
    if wait <= 0 { return }
    until = now() + wait
    if isOver { pause = min(pause * 2, longest) }
  }

  /// Answered, but with the app's own mistake: nothing was learned.
  func settled() { isTried = false }
}

/// What the published object (models/<name>/routing/<version>.json) says; `px` is the side of the PNG to send.
public struct Policy: Sendable {
  public var threshold = 0.0
  public var askAbout: Set<String> = []
  public var mode = InferenceMode.preferOnDevice
  public var px = 0

  public init(
    threshold: Double = 0, askAbout: Set<String> = [], mode: InferenceMode = .preferOnDevice, px: Int = 0
  ) {
    self.threshold = threshold
    self.askAbout = askAbout
    self.mode = mode
    self.px = px
  }
}

/// `cloud` throws CloudUnavailable, or anything else, which counts as "network"; its task is cancelled when `budget`
/// seconds are over, and it sends the `headers` of what the phone said. `mayAsk`: "" or why not ("offline", "battery", "metered").
public struct Router<Picture: Sendable>: Sendable {
  public var phone: @Sendable (Picture) async throws -> Prediction
  public var cloud: @Sendable (Picture, Policy, PhoneSaid?) async throws -> Prediction
  public var policy: Policy
  public var mode: InferenceMode?
  public var budget: TimeInterval
  public var breaker: Breaker
  public var mayAsk: @Sendable () -> String
  private let kept = Kept()

  public init(
    phone: @escaping @Sendable (Picture) async throws -> Prediction,
    cloud: @escaping @Sendable (Picture, Policy, PhoneSaid?) async throws -> Prediction,
    policy: Policy = Policy(), mode: InferenceMode? = nil, budget: TimeInterval = 1.5,
    breaker: Breaker = Breaker(), mayAsk: @escaping @Sendable () -> String = { "" }
  ) {
    self.phone = phone
    self.cloud = cloud
    self.policy = policy
    self.mode = mode
    self.budget = budget
    self.breaker = breaker
    self.mayAsk = mayAsk
  }

  public func classify(_ picture: Picture) async throws -> Answer {
    let began = ProcessInfo.processInfo.systemUptime
    var answer: Answer
    switch mode ?? policy.mode {
    case .onlyOnDevice: answer = try await onDevice(picture)
    case .onlyInCloud: answer = try await inCloud(picture)
    case .preferInCloud: answer = try await cloudFirst(picture)
    case .preferOnDevice: answer = try await phoneFirst(picture)
    }
    answer.latency = ProcessInfo.processInfo.systemUptime - began
    return answer
  }

  private func phoneFirst(_ picture: Picture) async throws -> Answer {
    var own: Answer
    do {
      own = try await onDevice(picture)
    } catch {
      // No model yet, or one that cannot run here.
      var answer = try await inCloud(picture)
      answer.fallback = "no_device_model"
      return answer
    }
    guard let asked = asks(own.prediction) else {
      await kept.add(1)
      return own
    }
    let said = PhoneSaid(prediction: own.prediction, kept: await kept.count)
    do {
      var answer = try await inCloud(picture, said)
      // What was kept while the answer came is told with the next one.
      await kept.add(-said.kept)
      answer.asked = asked
      answer.onDevice = own.prediction
      return answer
    } catch let error as CloudUnavailable {
      own.asked = asked
      own.fallback = error.reason
      return own
    }
  }

  private func cloudFirst(_ picture: Picture) async throws -> Answer {
    do {
      return try await inCloud(picture)
    } catch let error as CloudUnavailable {
      var answer = try await onDevice(picture)
      answer.fallback = error.reason
      return answer
    }
  }

  private func asks(_ own: Prediction) -> String? {
    // Written so that a confidence that is no number asks, too.
    if !(own.confidence >= policy.threshold) { return "unsure" }
    return policy.askAbout.contains(own.label) ? "label" : nil
  }

  private func onDevice(_ picture: Picture) async throws -> Answer {
    Answer(prediction: try await phone(picture), source: .onDevice)
  }

  private func inCloud(_ picture: Picture, _ said: PhoneSaid? = nil) async throws -> Answer {
    let not = mayAsk()
    if !not.isEmpty { throw CloudUnavailable(not) }
    guard await breaker.begin() else { throw CloudUnavailable("breaker") }
    do {
      let prediction = try await withinBudget { try await cloud(picture, policy, said) }
      await breaker.succeeded()
      return Answer(prediction: prediction, source: .inCloud)
    } catch {
      let known = error as? CloudUnavailable ?? CloudUnavailable("network")
      if known.isOfTheCloud { await breaker.failed(retryAfter: known.retryAfter) } else { await breaker.settled() }
      throw known
    }
  }

  private func withinBudget(_ ask: @escaping @Sendable () async throws -> Prediction) async throws -> Prediction {
    try await withThrowingTaskGroup(of: Prediction.self) { group in
      group.addTask { try await ask() }
      group.addTask {
        try await Task.sleep(nanoseconds: UInt64(budget * 1_000_000_000))
        throw CloudUnavailable("timeout")
      }
      defer { group.cancelAll() }
      return try await group.next()!
    }
  }
}
