#include "guest/lib/options.h"

#include "guest/lib/memory.h"

enum {
    LINE_MAX = 2048,
    WORDS_MAX = 128,
};

static char line[LINE_MAX];
static char words[LINE_MAX]; // the line cut into NUL-terminated keys and values
static struct {
    const char *key, *value;
} option[WORDS_MAX];
static unsigned option_count;

// Ends the word that starts at `text` and returns where the next may start.
static char *word_end(char *text, char **value)
{
    char *to = text;
    bool quoted = false;
    for (; *text && (quoted || *text != ' '); text++) {
        if (*text == '"')
            quoted = !quoted;
        else if (*text == '=' && !*value) {
            *to++ = 0;
            *value = to;
        } else
            *to++ = *text;
    }
    char *next = *text ? text + 1 : text;
    *to = 0;
    return next;
}

void options_set(const char *command_line)
{
    size_t length = strlen(command_line);
    if (length > sizeof(line) - 1)
        length = sizeof(line) - 1;
    memcpy(line, command_line, length);
    memcpy(words, line, sizeof(words));
    option_count = 0;
    for (char *text = words; *text && option_count < WORDS_MAX;) {
        char *word = text, *value = NULL;
        text = word_end(text, &value);
        if (!*word)
            continue;
        option[option_count].key = word;
        option[option_count++].value = value ? value : "";
    }
}

const char *options_line(void)
{
    return line;
}

const char *option_string(const char *key, const char *otherwise)
{
    for (unsigned i = option_count; i-- > 0;)
        if (!strcmp(option[i].key, key))
            return option[i].value;
    return otherwise;
}

bool option_is(const char *key, const char *value)
{
    return !strcmp(option_string(key, ""), value);
}

static const char *parse_number(const char *text, uint64_t *number)
{
    unsigned base = 10;
    uint64_t value = 0;
    if (text[0] == '0' && (text[1] | 0x20) == 'x') {
        base = 16;
        text += 2;
    }
    for (;; text++) {
        unsigned digit;
        if (*text >= '0' && *text <= '9')
            digit = (unsigned)(*text - '0');
        else if (base == 16 && (*text | 0x20) >= 'a' && (*text | 0x20) <= 'f')
            digit = (unsigned)((*text | 0x20) - 'a') + 10;
        else
            break;
        value = value * base + digit;
    }
    *number = value;
    return text;
}

uint64_t option_number(const char *key, uint64_t otherwise)
{
    const char *text = option_string(key, "");
    if (!*text)
        return otherwise;
    uint64_t number;
    text = parse_number(text, &number);
    unsigned shift = 0;
    switch (*text | 0x20) {
    case 'k':
        shift = 10;
        break;
    case 'm':
        shift = 20;
        break;
    case 'g':
        shift = 30;
        break;
    case 't':
        shift = 40;
        break;
    }
    return number << shift;
}

uint32_t option_ipv4(const char *key, uint32_t otherwise)
{
    const char *text = option_string(key, "");
    if (!*text)
        return otherwise;
    uint32_t address = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t part;
        text = parse_number(text, &part);
        if (part > 255 || (i < 3 && *text++ != '.'))
            return otherwise;
        address = address << 8 | (uint32_t)part;
    }
    return address;
}
