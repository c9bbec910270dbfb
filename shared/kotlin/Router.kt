// Which of the two models answers: the router of @dualdeploy/client for Android and any other JVM. No dependency.
// Held to the same table as the others: shared/fixtures/routing_cases.tsv.

package dualdeploy

import java.net.URLEncoder
import java.util.concurrent.Callable
import java.util.concurrent.ExecutionException
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.TimeUnit
import java.util.concurrent.TimeoutException
import java.util.concurrent.atomic.AtomicInteger
import kotlin.math.max
import kotlin.math.min

/** Names as in Firebase AI Logic; `text` is what the published object says. */
enum class InferenceMode(val text: String) {
    PREFER_ON_DEVICE("prefer_on_device"),
    PREFER_IN_CLOUD("prefer_in_cloud"),
    ONLY_ON_DEVICE("only_on_device"),
    ONLY_IN_CLOUD("only_in_cloud");

    companion object {
        fun of(text: String): InferenceMode =
            values().firstOrNull { it.text == text } ?: throw IllegalArgumentException("there is no mode $text")
    }
}

enum class InferenceSource { ON_DEVICE, IN_CLOUD }

/** What a model says to a picture; `probabilities` by label. */
data class Prediction(
    val label: String,
    val confidence: Double,
    val probabilities: Map<String, Double> = emptyMap(),
    val modelVersion: String = "",
)

/** What the phone's model said; `kept`: how many of its answers stood without asking, since the cloud answered last. */
data class PhoneSaid(val prediction: Prediction, val kept: Int) {
    /** For the gateway's log: how often both agree, and which share is asked about, are known without keeping a picture. */
    val headers: Map<String, String>
        get() = buildMap {
            put("X-Phone-Label", URLEncoder.encode(prediction.label, "UTF-8").replace("+", "%20"))
            put("X-Phone-Confidence", prediction.confidence.toString())
            put("X-Phone-Kept", kept.toString())
            if (prediction.modelVersion.isNotEmpty()) put("X-Phone-Version", prediction.modelVersion)
        }
}

/**
 * `asked`: why the cloud was asked ("unsure", "label"), null where it was not. `fallback`: why not the preferred model
 * answers ("timeout", "network", "busy", "server", "refused", "breaker", "no_device_model", or what `mayAsk` said).
 */
data class Answer(
    val prediction: Prediction,
    val source: InferenceSource,
    val asked: String? = null,
    val fallback: String? = null,
    val onDevice: Prediction? = null,
    val latencyMs: Long = 0,
)

/** A cloud that does not answer; `status` is HTTP's, 0 without one; `retryAfter` in seconds. */
class CloudUnavailable(
    val reason: String,
    val status: Int = 0,
    val retryAfter: Double = 0.0,
    cause: Throwable? = null,
) : Exception("the cloud model did not answer: $reason" + (if (status != 0) " (HTTP $status)" else ""), cause) {
    /** 400, 401 and 413 are the app's fault, and say nothing of the cloud. */
    val isOfTheCloud: Boolean get() = status < 400 || status == 429 || status >= 500
}

/** Closed, until `failures` in a row; then open for `seconds`, twice as long each time, until one request gets through. */
class Breaker(
    private val failures: Int = 3,
    private val seconds: Double = 30.0,
    private val longest: Double = 600.0,
    private val now: () -> Double = { System.nanoTime() / 1e9 },
) {
    private var count = 0
    private var until: Double? = null
    private var isTried = false
    private var pause = seconds

    /** Whether a request may be sent; of those that come after a pause, one. */
    @Synchronized
    fun begin(): Boolean {
        val end = until
        if (isTried || (end != null && now() < end)) return false
        isTried = end != null
        return true
    }

    @Synchronized
    fun succeeded() {
        count = 0
        until = null
        pause = seconds
        isTried = false
    }

    /** Whoever says when to come again is believed at once. */
    @Synchronized
    fun failed(retryAfter: Double = 0.0) {
        count += 1
        isTried = false
        val isOver = count >= failures
        val wait = max(min(retryAfter, longest), if (isOver) pause else 0.0)
        if (wait <= 0.0) return
        until = now() + wait
        if (isOver) pause = min(pause * 2, longest)
    }

    /** Answered, but with the app's own mistake: nothing was learned. */
    @Synchronized
    fun settled() {
        isTried = false
    }
}

/** What the published object (models/<name>/routing/<version>.json) says; `px` is the side of the PNG to send. */
data class Policy(
    val threshold: Double = 0.0,
    val askAbout: Set<String> = emptySet(),
    val mode: InferenceMode = InferenceMode.PREFER_ON_DEVICE,
    val px: Int = 0,
)

/**
 * Blocking: call `classify` off the main thread. `cloud` throws CloudUnavailable, or anything else, which counts as
 * "network"; it is interrupted when `budgetMs` is over, and sends the `headers` of what the phone said. `mayAsk`: "" or why not ("offline", "battery", "metered").
 */
class Router<Picture>(
    private val phone: (Picture) -> Prediction,
    private val cloud: (Picture, Policy, PhoneSaid?) -> Prediction,
    @Volatile var policy: Policy = Policy(),
    @Volatile var mode: InferenceMode? = null,
    private val budgetMs: Long = 1500,
    private val breaker: Breaker = Breaker(),
    private val mayAsk: () -> String = { "" },
    private val executor: ExecutorService = Executors.newCachedThreadPool { Thread(it).apply { isDaemon = true } },
) {
    private val kept = AtomicInteger()

    fun classify(picture: Picture): Answer {
        val began = System.nanoTime()
        val rules = policy
        val answer = when (mode ?: rules.mode) {
            InferenceMode.ONLY_ON_DEVICE -> onDevice(picture)
            InferenceMode.ONLY_IN_CLOUD -> inCloud(picture, rules)
            InferenceMode.PREFER_IN_CLOUD -> cloudFirst(picture, rules)
            InferenceMode.PREFER_ON_DEVICE -> phoneFirst(picture, rules)
        }
        return answer.copy(latencyMs = (System.nanoTime() - began) / 1_000_000)
    }

    private fun phoneFirst(picture: Picture, rules: Policy): Answer {
        val own = try {
            onDevice(picture)
        } catch (error: Exception) {
            // No model yet, or one that cannot run here. Why is said if the cloud does not answer, either.
            return inCloud(picture, rules, error).copy(fallback = "no_device_model")
        }
        val asked = asks(own.prediction, rules)
        if (asked == null) {
            kept.incrementAndGet()
            return own
        }
        val said = PhoneSaid(own.prediction, kept.get())
        return try {
            val answer = inCloud(picture, rules, said = said)
            // What was kept while the answer came is told with the next one.
            kept.addAndGet(-said.kept)
            answer.copy(asked = asked, onDevice = own.prediction)
        } catch (error: CloudUnavailable) {
            own.copy(asked = asked, fallback = error.reason)
        }
    }

    private fun cloudFirst(picture: Picture, rules: Policy): Answer =
        try {
            inCloud(picture, rules)
        } catch (error: CloudUnavailable) {
            onDevice(picture).copy(fallback = error.reason)
        }

    private fun asks(own: Prediction, rules: Policy): String? = when {
        // Written so that a confidence that is no number asks, too.
        !(own.confidence >= rules.threshold) -> "unsure"
        own.label in rules.askAbout -> "label"
        else -> null
    }

    private fun onDevice(picture: Picture) = Answer(phone(picture), InferenceSource.ON_DEVICE)

    private fun inCloud(picture: Picture, rules: Policy, cause: Throwable? = null, said: PhoneSaid? = null): Answer {
        val not = mayAsk()
        if (not.isNotEmpty()) throw CloudUnavailable(not, cause = cause)
        if (!breaker.begin()) throw CloudUnavailable("breaker", cause = cause)
        try {
            val answer = withinBudget { cloud(picture, rules, said) }
            breaker.succeeded()
            return Answer(answer, InferenceSource.IN_CLOUD)
        } catch (error: CloudUnavailable) {
            if (error.isOfTheCloud) breaker.failed(error.retryAfter) else breaker.settled()
            throw error
        }
    }

    private fun withinBudget(ask: () -> Prediction): Prediction {
        val asked = executor.submit(Callable { ask() })
        try {
            return asked.get(budgetMs, TimeUnit.MILLISECONDS)
        } catch (error: TimeoutException) {
            throw CloudUnavailable("timeout", cause = error)
        } catch (error: ExecutionException) {
            throw error.cause as? CloudUnavailable ?: CloudUnavailable("network", cause = error.cause)
        } finally {
            asked.cancel(true)
        }
    }
}
