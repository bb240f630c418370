/* A device that loses no event: MQTT 5 with receipts, commands and status, by libmosquitto (docs/protocol.md).
 *
 *     cc -O2 -Wall -Wextra -o device device.c -lmosquitto -lm
 *     device --id PB-000123 record 20 1 3.2                   files, errors, Mbit/s; after each sync, needs no network
 *     device --id PB-000123 --host broker.example --tls once  from cron; `run` instead of `once`: as a service
 *
 * `once` ends with 0 where every event is confirmed, with 1 where some wait, with 3 where some were rejected in this run.
 *
 * The spool is a directory. `events` is only appended to, an event a line behind the name of the file's generation, and
 * each line is on the disk before `record` ends. A message is a range of it, and its Correlation Data names the range:
 * whichever process published it, and however often, its receipt is about the same events. `state` says which ranges are
 * on their way, and where the events begin that never were; it is replaced as a whole. What is rejected goes to `rejected`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    MESSAGE_BYTES_MAX = 262144,
    MESSAGE_EVENTS_MAX = 500,
    INFLIGHT_MAX = 4, /* messages without a receipt: a slow PiSync slows its devices by this */
    MESSAGES_MAX = 64, /* with those that were split */
    COMMANDS_MAX = 100,
    ID_MAX = 64,
    HEADER = 23, /* "spool ", 16 digits, "\n" */
};
static const double PUBACK_WAIT_S_MAX = 600, RECEIPT_WAIT_S_MAX = 4 * 3600;

static struct {
    const char *id, *spool, *host, *ca_file, *cert_file, *key_file, *username, *password_file;
    int port, batch, tls;
    double wait_s, puback_wait_s, receipt_wait_s;
} options = {.spool = "spool", .host = "127.0.0.1", .batch = MESSAGE_EVENTS_MAX, .wait_s = 60, .puback_wait_s = 20, .receipt_wait_s = 600};

static struct message {
    long begin, end; /* of the file */
    double due;      /* when it is published again */
    int acknowledged, unacknowledged; /* PUBACKs that it had; attempts without one since */
    int mid;         /* of the latest attempt on this connection, or 0 */
} messages[MESSAGES_MAX];
static int message_count;
static long next; /* what stands before it is in a message, or done */
static char generation[17], commands[COMMANDS_MAX][ID_MAX + 1], since[32];
static int command_count;
static bool ready, ended, some_rejected;

/* --- Time ------------------------------------------------------------------------------------------------------- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void text_of(double moment, char text[32])
{
    long long milliseconds = (long long)floor(moment * 1000);
    time_t seconds = (time_t)(milliseconds / 1000);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    size_t length = strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + length, 32 - length, ".%03dZ", (int)(milliseconds % 1000));
}

static double drawn(double least, double most)
{
    return least + (most - least) * drand48();
}

/* Twice as long each time, and drawn anew, so that a fleet does not march in step. */
static double wait_s(double first, int earlier, double most)
{
    return fmin(first * ldexp(1, earlier < 20 ? earlier : 20), fmax(first, most)) * drawn(0.5, 1.5);
}

/* --- JSON, as far as receipts and commands need it ---------------------------------------------------------------- */

/* A copy of a payload, without white space between its values. */
static char *compact(const void *payload, int length)
{
    char *json = strndup(payload ? payload : "", (size_t)length), *to = json;
    bool in_string = false;
    for (const char *from = json; *from; from++) {
        if (in_string && *from == '\\' && from[1])
            *to++ = *from++;
        else if (*from == '"')
            in_string = !in_string;
        else if (!in_string && strchr(" \t\r\n", *from))
            continue;
        *to++ = *from;
    }
    *to = '\0';
    return json;
}

/* Where the value that begins here ends. */
static const char *end_of(const char *at)
{
    int depth = 0;
    for (; *at; at++) {
        if (*at == '"')
            while (*++at && *at != '"')
                at += *at == '\\' && at[1];
        else if (*at == '{' || *at == '[')
            depth++;
        else if (*at == '}' || *at == ']')
            depth--;
        else if (depth == 0)
            return at + strcspn(at, ",]}"); /* a number or a word */
        if (*at && depth == 0)
            return at + 1;
    }
    return at;
}

/* The value of a member of an object, or NULL. */
static const char *member(const char *object, const char *name)
{
    for (const char *at = object + (*object == '{'); *at == '"'; at += *at == ',') {
        const char *value = end_of(at);
        if (*value != ':')
            return NULL;
        if ((size_t)(value - at) == strlen(name) + 2 && !strncmp(at + 1, name, strlen(name)))
            return value + 1;
        at = end_of(value + 1);
    }
    return NULL;
}

static long number(const char *object, const char *name)
{
    const char *value = member(object, name);
    return value ? strtol(value, NULL, 10) : -1;
}

/* A short text without escapes, which ids, moments and names are; "" where it is none. */
static void text(const char *object, const char *name, char found[ID_MAX + 1])
{
    const char *value = member(object, name);
    size_t length = value && *value == '"' ? strcspn(value + 1, "\"\\") : 0;
    snprintf(found, ID_MAX + 1, "%.*s", (int)(length && length <= ID_MAX && value[1 + length] == '"' ? length : 0), value ? value + 1 : "");
}

/* --- The spool -------------------------------------------------------------------------------------------------- */

static void check(bool is_fine, const char *what)
{
    if (!is_fine) {
        perror(what);
        exit(1);
    }
}

static int locked(const char *name, bool waits)
{
    int file = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    check(file >= 0, name);
    if (flock(file, LOCK_EX | (waits ? 0 : LOCK_NB)) == 0)
        return file;
    fprintf(stderr, "another process sends this spool\n");
    exit(1);
}

/* A part of a file, with a NUL behind it. */
static char *contents(const char *name, long begin, long bytes_max, long *length)
{
    struct stat about = {0};
    int file = open(name, O_RDONLY | O_CLOEXEC);
    check((file >= 0 && fstat(file, &about) == 0) || errno == ENOENT, name);
    long wanted = about.st_size > begin ? about.st_size - begin : 0;
    wanted = wanted < bytes_max ? wanted : bytes_max;
    char *found = calloc((size_t)wanted + 1, 1);
    check(found && (wanted == 0 || pread(file, found, (size_t)wanted, begin) == wanted), name);
    if (file >= 0)
        close(file);
    *length = wanted;
    return found;
}

static void append(const char *name, const char *line)
{
    int file = open(name, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    ssize_t length = (ssize_t)strlen(line);
    check(file >= 0 && write(file, line, (size_t)length) == length && fsync(file) == 0, name);
    close(file);
}

/* Whole or not at all, also after a power cut. */
static void replace(const char *name, const char *now)
{
    char other[32];
    snprintf(other, sizeof other, "%s.new", name);
    unlink(other);
    append(other, now);
    int directory = open(".", O_RDONLY | O_CLOEXEC);
    check(rename(other, name) == 0 && fsync(directory) == 0, name);
    close(directory);
}

static void begin_generation(void)
{
    unsigned long long name;
    char header[HEADER + 1];
    check(getrandom(&name, sizeof name, 0) == sizeof name, "getrandom");
    snprintf(header, sizeof header, "spool %016llx\n", name);
    replace("events", header);
}

/* Put an event on the spool. No two get one timestamp: PiSync would take the second for another copy. */
static void record(double moment, long files, long errors, double speed)
{
    int guard = locked("record.lock", true);
    if (access("events", F_OK) != 0)
        begin_generation();
    long length;
    char timestamp[32], line[512], *before = contents("events", 0, __LONG_MAX__, &length);
    char *last = strrchr(before, '\n'); /* a power cut may have left half a line behind it */
    check(last && truncate("events", last + 1 - before) == 0, "events");
    if (moment < 1420070400)
        fprintf(stderr, "the clock is not set: PiSync keeps this event aside until somebody states its time\n");
    for (text_of(moment, timestamp); strstr(before, timestamp); text_of(moment, timestamp))
        moment += 0.001;
    snprintf(line, sizeof line,
             "{\"device_id\":\"%s\",\"timestamp\":\"%s\",\"total_files_synced\":%ld,\"total_errors\":%ld,\"internet_speed\":%g}\n",
             options.id, timestamp, files, errors, speed);
    append("events", line);
    free(before);
    close(guard);
}

static void save(void)
{
    char *content = NULL;
    size_t size;
    FILE *state = open_memstream(&content, &size);
    fprintf(state, "next %s %ld\n", generation, next);
    for (int i = 0; i < message_count; i++)
        fprintf(state, "message %ld %ld %f %d %d\n", messages[i].begin, messages[i].end, messages[i].due, messages[i].acknowledged, messages[i].unacknowledged);
    for (int i = 0; i < command_count; i++)
        fprintf(state, "command %s\n", commands[i]);
    fclose(state);
    replace("state", content);
    free(content);
}

static void load(void)
{
    long length;
    char *header = contents("events", 0, HEADER, &length), *state = contents("state", 0, __LONG_MAX__, &length), of[17] = "";
    message_count = command_count = 0;
    for (char *line = strtok(state, "\n"); line; line = strtok(NULL, "\n")) {
        struct message *it = &messages[message_count];
        sscanf(line, "next %16s %ld", of, &next);
        message_count += message_count < MESSAGES_MAX && sscanf(line, "message %ld %ld %lf %d %d", &it->begin, &it->end, &it->due, &it->acknowledged, &it->unacknowledged) == 5;
        command_count += command_count < COMMANDS_MAX && sscanf(line, "command %64s", commands[command_count]) == 1;
    }
    snprintf(generation, sizeof generation, "%s", *header ? header + 6 : "");
    if (strcmp(of, generation) != 0) { /* a file begins anew only where all that was in the other is done */
        next = HEADER;
        message_count = 0;
    }
    free(header);
    free(state);
}

static int lines(const char *from)
{
    int found = 0;
    while ((from = strchr(from, '\n')))
        from++, found++;
    return found;
}

static bool something_waits(void)
{
    struct stat about = {0};
    return message_count > 0 || (stat("events", &about) == 0 && about.st_size > next);
}

/* How many events wait, and the timestamp of the oldest. */
static int pending(char oldest[ID_MAX + 1])
{
    long length, first = __LONG_MAX__;
    int found = 0;
    for (int i = 0; i <= message_count; i++) {
        long begin = i < message_count ? messages[i].begin : next;
        char *waiting = contents("events", begin, i < message_count ? messages[i].end - begin : __LONG_MAX__, &length);
        found += lines(waiting);
        if (*waiting && begin < first) {
            first = begin;
            text(waiting, "timestamp", oldest);
        }
        free(waiting);
    }
    return found;
}

/* --- Messages --------------------------------------------------------------------------------------------------- */

/* Put the oldest events that are in no message yet into messages, a few at a time. */
static void pack(void)
{
    while (message_count < INFLIGHT_MAX) {
        long length, bytes = 0;
        char *waiting = contents("events", next, MESSAGE_BYTES_MAX - 1, &length);
        for (int events = 0; events < options.batch; events++) {
            char *end = strchr(waiting + bytes, '\n');
            if (!end)
                break;
            bytes = end + 1 - waiting;
        }
        free(waiting);
        if (bytes == 0)
            return;
        messages[message_count++] = (struct message){.begin = next, .end = next + bytes};
        next += bytes;
    }
}

static void publish_due(struct mosquitto *client)
{
    char topic[128], receipts[128], correlation[96];
    int before = message_count;
    pack();
    bool changed = message_count != before;
    double now = now_s();
    for (int i = 0; i < message_count && i < INFLIGHT_MAX; i++) {
        struct message *it = &messages[i];
        if (it->due <= now) {
            it->due = now + wait_s(options.puback_wait_s, it->unacknowledged++, PUBACK_WAIT_S_MAX);
            it->mid = -1; /* to be published, once it is on the disk that it was */
            changed = true;
        }
    }
    if (changed)
        save();
    for (int i = 0; i < message_count && i < INFLIGHT_MAX; i++) {
        struct message *it = &messages[i];
        if (it->mid != -1)
            continue;
        long length;
        char *events = contents("events", it->begin, it->end - it->begin, &length), *payload = malloc((size_t)length + 2);
        bool is_array = lines(events) > 1;
        snprintf(payload, (size_t)length + 2, "%s%s", is_array ? "[" : "", events);
        for (char *line = payload; (line = strchr(line, '\n'));)
            *line = ',';
        length += is_array ? 1 : -1;
        if (is_array)
            payload[length - 1] = ']';
        snprintf(topic, sizeof topic, "pisync/v1/devices/%s/sync", options.id);
        snprintf(receipts, sizeof receipts, "pisync/v1/devices/%s/receipts", options.id);
        snprintf(correlation, sizeof correlation, "%s.%ld.%ld", generation, it->begin, it->end);
        mosquitto_property *properties = NULL;
        mosquitto_property_add_string(&properties, MQTT_PROP_RESPONSE_TOPIC, receipts);
        mosquitto_property_add_binary(&properties, MQTT_PROP_CORRELATION_DATA, correlation, (uint16_t)strlen(correlation));
        if (mosquitto_publish_v5(client, &it->mid, topic, (int)length, payload, 1, false, properties) != MOSQ_ERR_SUCCESS)
            it->mid = 0;
        mosquitto_property_free_all(&properties);
        free(payload);
        free(events);
    }
}

/* Note the rejection of each place that it names; returns how many they are, or -1 where one is no place. */
static int note(const char *rejection, const char *why[MESSAGE_EVENTS_MAX])
{
    const char *indexes = member(rejection, "indexes"), *at = indexes ? indexes + 1 : member(rejection, "index");
    int found = 0;
    do {
        char *end = "";
        long first = at ? strtol(at, &end, 10) : -1, last = first;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        if (end == at || first < 0 || last < first || last >= MESSAGE_EVENTS_MAX)
            return -1;
        for (long place = first; place <= last; place++, found++)
            why[place] = rejection;
        at = end + 1;
    } while (indexes && at[-1] == ',');
    return found;
}

static void receipt(const char *correlation, const char *json)
{
    char of[17];
    long begin, end, length;
    struct message *it = messages;
    if (sscanf(correlation, "%16[0-9a-f].%ld.%ld", of, &begin, &end) != 3 || strcmp(of, generation) != 0)
        return; /* of an earlier life */
    while (it < messages + message_count && (it->begin != begin || it->end != end))
        it++;
    const char *at = member(json, "rejected"), *whole = NULL, *why[MESSAGE_EVENTS_MAX] = {0};
    if (it == messages + message_count || !at || *at != '[')
        return;
    char *events = contents("events", begin, end - begin, &length);
    int count = lines(events), told = 0;
    for (at++; *at == '{'; at += *at == ',') {
        const char *index = member(at, "index");
        if (index && *index == 'n')
            whole = at;
        else {
            int places = note(at, why);
            told = places < 0 || told < 0 ? -1 : told + places;
        }
        at = end_of(at);
    }
    const char *why_whole = whole ? member(whole, "reason") : NULL;
    if (why_whole && (strncmp(why_whole, "\"rate_exceeded\"", 15) == 0 || strncmp(why_whole, "\"unknown_device\"", 16) == 0)) {
        free(events); /* none of it was looked at: as if no receipt had come */
        return;
    }
    if (whole && count > 1) { /* not taken as a whole: its events go again, in two messages */
        char *half = events;
        for (int i = 0; i < count / 2; i++)
            half = strchr(half, '\n') + 1;
        options.batch = count / 2;
        if (message_count < MESSAGES_MAX) {
            messages[message_count++] = (struct message){.begin = begin + (half - events), .end = end};
            *it = (struct message){.begin = begin, .end = begin + (half - events)};
        }
    } else if (whole || (told >= 0 && number(json, "stored") + number(json, "duplicates") + told == count)) {
        char *line = events, *kept = NULL;
        for (int place = 0; place < count; place++) {
            char *behind = strchr(line, '\n');
            const char *reason = whole ? whole : why[place];
            if (reason) {
                check(asprintf(&kept, "{\"rejection\":%.*s,\"event\":%.*s}\n", (int)(end_of(reason) - reason), reason, (int)(behind - line), line) > 0, "memory");
                fprintf(stderr, "rejected: %s", kept);
                append("rejected", kept);
                free(kept);
                some_rejected = true;
            }
            line = behind + 1;
        }
        memmove(it, it + 1, (size_t)(messages + --message_count - it) * sizeof *it);
    }
    free(events);
    save();
}

static void command(struct mosquitto *client, const char *json, const mosquitto_property *properties)
{
    char id[ID_MAX + 1], kind[ID_MAX + 1], expires[ID_MAX + 1], now[32], answer[256], *topic = NULL;
    void *correlation = NULL;
    uint16_t length = 0;
    text(json, "id", id);
    text(json, "command", kind);
    text(json, "expires", expires);
    text_of(now_s(), now);
    if (!*id || strcmp(expires, now) <= 0) /* PiSync writes moments as we do: they sort as text */
        return;
    bool is_known = strcmp(kind, "sync_now") == 0, is_done = false;
    for (int i = 0; i < command_count; i++)
        is_done |= strcmp(commands[i], id) == 0;
    if (is_known && !is_done) {
        record(now_s(), 0, 0, 0); /* here your device synchronises; the event of that sync is PiSync's proof */
        if (command_count == COMMANDS_MAX)
            memmove(commands[0], commands[1], sizeof commands[0] * (size_t)--command_count);
        strcpy(commands[command_count++], id);
        save();
    }
    snprintf(answer, sizeof answer, "{\"id\":\"%s\",\"state\":\"%s\",\"detail\":\"%s\"}", id, is_known ? "accepted" : "refused", is_known ? "" : "unknown");
    mosquitto_property_read_string(properties, MQTT_PROP_RESPONSE_TOPIC, &topic, false);
    mosquitto_property *with_correlation = NULL;
    if (mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &correlation, &length, false))
        mosquitto_property_add_binary(&with_correlation, MQTT_PROP_CORRELATION_DATA, correlation, length);
    if (topic)
        mosquitto_publish_v5(client, NULL, topic, (int)strlen(answer), answer, 1, false, with_correlation);
    mosquitto_property_free_all(&with_correlation);
    free(correlation);
    free(topic);
}

/* What the device says of itself, retained: also as its last will, which the broker says for it. */
static void status(struct mosquitto *client, bool is_online, bool is_will)
{
    char topic[128], said[256], oldest[ID_MAX + 1] = "";
    int length = snprintf(said, sizeof said, "{\"state\":\"%s\",\"since\":\"%s\",\"firmware\":\"example 1\"", is_online ? "online" : "offline", since);
    if (is_online) {
        length += snprintf(said + length, sizeof said - (size_t)length, ",\"pending\":%d", pending(oldest));
        if (*oldest)
            length += snprintf(said + length, sizeof said - (size_t)length, ",\"oldest_pending\":\"%s\"", oldest);
    }
    length += snprintf(said + length, sizeof said - (size_t)length, "}");
    snprintf(topic, sizeof topic, "pisync/v1/devices/%s/status", options.id);
    if (is_will)
        mosquitto_will_set(client, topic, length, said, 1, true);
    else
        mosquitto_publish(client, NULL, topic, length, said, 1, true);
}

/* --- One connection after another ------------------------------------------------------------------------------- */

static void over(int reason)
{
    if (reason) /* not where we leave */
        fprintf(stderr, "disconnected: %s\n", mosquitto_reason_string(reason));
    ended = true;
}

static void on_connect(struct mosquitto *client, void *data, int reason, int flags, const mosquitto_property *properties)
{
    (void)data, (void)flags, (void)properties;
    char receipts[128], orders[128], *const topics[] = {receipts, orders};
    snprintf(receipts, sizeof receipts, "pisync/v1/devices/%s/receipts", options.id);
    snprintf(orders, sizeof orders, "pisync/v1/devices/%s/commands", options.id);
    if (reason >= 0x80)
        over(reason);
    else
        mosquitto_subscribe_multiple(client, NULL, 2, topics, 1, 0, NULL);
}

/* Now receipts can come. What has no PUBACK is due at once; what has one keeps its time, and 20 s at least. */
static void on_subscribe(struct mosquitto *client, void *data, int mid, int count, const int *reasons, const mosquitto_property *properties)
{
    (void)client, (void)data, (void)mid, (void)properties;
    for (int i = 0; i < count; i++)
        if (reasons[i] >= 0x80) {
            over(reasons[i]);
            return;
        }
    for (struct message *it = messages; it < messages + message_count; it++) {
        double now = now_s(), latest = now + wait_s(options.receipt_wait_s, it->acknowledged, RECEIPT_WAIT_S_MAX);
        /* `fmin`: a clock that was set back must not make the wait longer than it can be. */
        it->due = it->unacknowledged || !it->acknowledged ? 0 : fmax(fmin(it->due, latest), now + wait_s(options.puback_wait_s, 0, PUBACK_WAIT_S_MAX));
        it->mid = 0;
    }
    ready = true;
}

static void on_disconnect(struct mosquitto *client, void *data, int reason, const mosquitto_property *properties)
{
    (void)client, (void)data, (void)properties;
    over(reason);
}

/* A PUBACK. It does not confirm anything, but says whether a receipt may be waited for. */
static void on_publish(struct mosquitto *client, void *data, int mid, int reason, const mosquitto_property *properties)
{
    (void)client, (void)data, (void)properties;
    if (reason == MQTT_RC_NO_MATCHING_SUBSCRIBERS || reason >= 0x80) { /* nobody was there to store it, or it was not taken */
        fprintf(stderr, "not taken: %s\n", mosquitto_reason_string(reason));
        return;
    }
    for (struct message *it = messages; it < messages + message_count; it++)
        if (it->mid == mid) {
            it->due = now_s() + wait_s(options.receipt_wait_s, it->acknowledged++, RECEIPT_WAIT_S_MAX);
            it->unacknowledged = it->mid = 0;
            save();
        }
}

static void on_message(struct mosquitto *client, void *data, const struct mosquitto_message *message, const mosquitto_property *properties)
{
    (void)data;
    char correlation[128] = "", *json = compact(message->payload, message->payloadlen);
    void *bytes = NULL;
    uint16_t length = 0;
    if (mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &bytes, &length, false))
        snprintf(correlation, sizeof correlation, "%.*s", (int)length, (char *)bytes);
    if (strstr(message->topic, "/receipts"))
        receipt(correlation, json);
    else if (!message->retain)
        command(client, json, properties);
    free(bytes);
    free(json);
}

/* A client of its own for each connection: the library's queue must not send again what this spool sends again. */
static struct mosquitto *connected(void)
{
    struct mosquitto *client = mosquitto_new(options.id, false, NULL);
    mosquitto_property *properties = NULL;
    char password[256] = "";
    check(client != NULL, "mosquitto_new");
    ready = ended = false;
    text_of(now_s(), since);
    mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1);
    mosquitto_connect_v5_callback_set(client, on_connect);
    mosquitto_subscribe_v5_callback_set(client, on_subscribe);
    mosquitto_disconnect_v5_callback_set(client, on_disconnect);
    mosquitto_publish_v5_callback_set(client, on_publish);
    mosquitto_message_v5_callback_set(client, on_message);
    if (options.username) {
        FILE *file = options.password_file ? fopen(options.password_file, "re") : NULL;
        check(!options.password_file || (file && fgets(password, sizeof password, file)), options.password_file);
        password[strcspn(password, "\r\n")] = '\0';
        if (file)
            fclose(file);
        mosquitto_username_pw_set(client, options.username, file ? password : NULL);
    }
    if (options.tls) /* the system's authorities, or your own; the broker's name is checked */
        check(mosquitto_tls_set(client, options.ca_file, options.ca_file ? NULL : "/etc/ssl/certs", options.cert_file, options.key_file, NULL) == MOSQ_ERR_SUCCESS, "TLS");
    status(client, false, true);
    mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, 86400); /* receipts wait for us for a day */
    int result = mosquitto_connect_bind_v5(client, options.host, options.port, 60, NULL, properties);
    mosquitto_property_free_all(&properties);
    if (result != MOSQ_ERR_SUCCESS) {
        fprintf(stderr, "no connection: %s\n", result == MOSQ_ERR_ERRNO ? strerror(errno) : mosquitto_strerror(result));
        ended = true;
    }
    return client;
}

/* Begin the file anew where all that is in it is done. */
static void shorten(void)
{
    int guard = locked("record.lock", true);
    if (*generation && next > HEADER && !something_waits()) {
        begin_generation();
        load();
    }
    close(guard);
}

/* One connection, until it ends, or nothing waits any more, or the time is over; a service goes on. */
static void serve(struct mosquitto *client, bool is_service, double end, int *attempts)
{
    double told_at = 0;
    bool told_waiting = true;
    while (!ended && (is_service || (something_waits() && now_s() < end))) {
        if (mosquitto_loop(client, 500, 1) != MOSQ_ERR_SUCCESS) /* returns sooner when something comes */
            ended = true;
        if (*generation == '\0')
            load(); /* there may be a first event by now */
        if (!ready || ended)
            continue;
        *attempts = 0;
        bool waiting = something_waits();
        if (told_at == 0 || (waiting != told_waiting && !waiting) || (waiting && fabs(now_s() - told_at) > 60)) {
            status(client, true, false);
            told_at = now_s();
            told_waiting = waiting;
        }
        publish_due(client);
        if (!waiting)
            shorten();
    }
    if (!ended && ready) {
        status(client, false, false);
        mosquitto_disconnect(client);
        for (int i = 0; i < 10 && !ended; i++) /* or the broker would say it for us once more */
            mosquitto_loop(client, 100, 1);
    }
}

static int send_all(bool is_service)
{
    double end = now_s() + options.wait_s;
    int attempts = 0;
    load();
    for (;;) {
        struct mosquitto *client = connected();
        serve(client, is_service, end, &attempts);
        mosquitto_destroy(client);
        if (!is_service && !something_waits())
            return some_rejected ? 3 : 0;
        double pause = drawn(0, fmin(60, ldexp(1, attempts < 6 ? attempts++ : 6))), left = end - now_s();
        if (!is_service && left < 0)
            return 1;
        usleep((useconds_t)(1e6 * (is_service ? pause : fmin(pause, left))));
    }
}

int main(int count, char **arguments)
{
    static const struct {
        struct option option;
        const char **text;
        double *number;
        int *whole;
    } known[] = {
        {{"id", 1, 0, 0}, &options.id, 0, 0}, {{"spool", 1, 0, 0}, &options.spool, 0, 0}, {{"host", 1, 0, 0}, &options.host, 0, 0},
        {{"port", 1, 0, 0}, 0, 0, &options.port}, {{"tls", 0, &options.tls, 1}, 0, 0, 0}, {{"ca-file", 1, 0, 0}, &options.ca_file, 0, 0},
        {{"cert-file", 1, 0, 0}, &options.cert_file, 0, 0}, {{"key-file", 1, 0, 0}, &options.key_file, 0, 0},
        {{"username", 1, 0, 0}, &options.username, 0, 0}, {{"password-file", 1, 0, 0}, &options.password_file, 0, 0},
        {{"batch", 1, 0, 0}, 0, 0, &options.batch}, {{"wait", 1, 0, 0}, 0, &options.wait_s, 0},
        {{"puback-wait", 1, 0, 0}, 0, &options.puback_wait_s, 0}, {{"receipt-wait", 1, 0, 0}, 0, &options.receipt_wait_s, 0},
    };
    enum { KNOWN = sizeof known / sizeof *known };
    struct option names[KNOWN + 1] = {0};
    for (int i = 0; i < KNOWN; i++)
        names[i] = known[i].option;
    int which = 0, found;
    while ((found = getopt_long(count, arguments, "+", names, &which)) == 0) {
        if (known[which].text)
            *known[which].text = optarg;
        if (known[which].number)
            *known[which].number = atof(optarg);
        if (known[which].whole)
            *known[which].whole = atoi(optarg);
    }
    const char *action = found == -1 && optind < count ? arguments[optind] : "";
    bool is_record = strcmp(action, "record") == 0 && count == optind + 4, is_service = strcmp(action, "run") == 0;
    if (!options.id || strlen(options.id) > ID_MAX || (!is_record && !is_service && strcmp(action, "once") != 0)) {
        fprintf(stderr, "usage: %s --id ID [--spool DIRECTORY] record FILES ERRORS SPEED | once | run\n", arguments[0]);
        return 2;
    }
    options.port = options.port ? options.port : options.tls ? 8883 : 1883;
    options.batch = options.batch < 1 ? 1 : options.batch > MESSAGE_EVENTS_MAX ? MESSAGE_EVENTS_MAX : options.batch;
    check((mkdir(options.spool, 0700) == 0 || errno == EEXIST) && chdir(options.spool) == 0, options.spool);
    if (is_record) {
        record(now_s(), atol(arguments[optind + 1]), atol(arguments[optind + 2]), atof(arguments[optind + 3]));
        return 0;
    }
    locked("send.lock", false); /* two senders of one client id would push each other out; held until we end */
    srand48(time(NULL) ^ getpid());
    mosquitto_lib_init();
    return send_all(is_service);
}
