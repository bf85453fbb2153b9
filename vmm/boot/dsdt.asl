// The DSDT (ACPI 6.4, 5.2.11.1): what isn't in a fixed table. Addresses are those of vmm/layout.h
// and devices/acpi_pm.h; a unit test compares them.
DefinitionBlock ("dsdt.aml", "DSDT", 2, "FERRY ", "FERRYVM ", 1)
{
    Scope (\_SB)
    {
        // The host bridge of bus 0. Interrupts are messages, so there is no _PRT.
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_SEG, 0)
            Name (_BBN, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0x0000, 0x0000, 0x0000, 0x0000, 0x0001)
                IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0000, 0x0CF7, 0x0000, 0x0CF8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0D00, 0xFFFF, 0x0000, 0xF300)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0x00000000, 0xC0000000, 0xDFFFFFFF, 0x00000000, 0x20000000)
            })

            // Hot plug: the registers of devices/pci_hotplug.h.
            OperationRegion (HPRG, SystemIO, 0x0640, 0x0C)
            Field (HPRG, DWordAcc, NoLock, WriteAsZeros)
            {
                HINS, 32,
                HREM, 32,
                HPRE, 32
            }
            Mutex (HLCK, 0)

            // _STA of a slot: there and working, or empty.
            Method (HSTA, 1, Serialized)
            {
                If ((HPRE & (One << Arg0)))
                {
                    Return (0x0F)
                }
                Return (Zero)
            }

            Method (HEJC, 1, Serialized)
            {
                Acquire (HLCK, 0xFFFF)
                HPRE = (One << Arg0)
                Release (HLCK)
            }

            // Notifies each slot of a mask: 1 = look at it, 3 = give it up.
            Method (HNTF, 2, Serialized)
            {
                If ((Arg0 & 0x00000002)) { Notify (S01, Arg1) }
                If ((Arg0 & 0x00000004)) { Notify (S02, Arg1) }
                If ((Arg0 & 0x00000008)) { Notify (S03, Arg1) }
                If ((Arg0 & 0x00000010)) { Notify (S04, Arg1) }
                If ((Arg0 & 0x00000020)) { Notify (S05, Arg1) }
                If ((Arg0 & 0x00000040)) { Notify (S06, Arg1) }
                If ((Arg0 & 0x00000080)) { Notify (S07, Arg1) }
                If ((Arg0 & 0x00000100)) { Notify (S08, Arg1) }
                If ((Arg0 & 0x00000200)) { Notify (S09, Arg1) }
                If ((Arg0 & 0x00000400)) { Notify (S0A, Arg1) }
                If ((Arg0 & 0x00000800)) { Notify (S0B, Arg1) }
                If ((Arg0 & 0x00001000)) { Notify (S0C, Arg1) }
                If ((Arg0 & 0x00002000)) { Notify (S0D, Arg1) }
                If ((Arg0 & 0x00004000)) { Notify (S0E, Arg1) }
                If ((Arg0 & 0x00008000)) { Notify (S0F, Arg1) }
                If ((Arg0 & 0x00010000)) { Notify (S10, Arg1) }
                If ((Arg0 & 0x00020000)) { Notify (S11, Arg1) }
                If ((Arg0 & 0x00040000)) { Notify (S12, Arg1) }
                If ((Arg0 & 0x00080000)) { Notify (S13, Arg1) }
                If ((Arg0 & 0x00100000)) { Notify (S14, Arg1) }
                If ((Arg0 & 0x00200000)) { Notify (S15, Arg1) }
                If ((Arg0 & 0x00400000)) { Notify (S16, Arg1) }
                If ((Arg0 & 0x00800000)) { Notify (S17, Arg1) }
                If ((Arg0 & 0x01000000)) { Notify (S18, Arg1) }
                If ((Arg0 & 0x02000000)) { Notify (S19, Arg1) }
                If ((Arg0 & 0x04000000)) { Notify (S1A, Arg1) }
                If ((Arg0 & 0x08000000)) { Notify (S1B, Arg1) }
                If ((Arg0 & 0x10000000)) { Notify (S1C, Arg1) }
                If ((Arg0 & 0x20000000)) { Notify (S1D, Arg1) }
                If ((Arg0 & 0x40000000)) { Notify (S1E, Arg1) }
                If ((Arg0 & 0x80000000)) { Notify (S1F, Arg1) }
            }

            // What happened is taken first: what comes meanwhile raises the event again.
            Method (HSCN, 0, Serialized)
            {
                Acquire (HLCK, 0xFFFF)
                Local0 = HINS
                HINS = Local0
                Local1 = HREM
                HREM = Local1
                Release (HLCK)
                HNTF (Local0, One)
                HNTF (Local1, 0x03)
            }

            Device (S01)
            {
                Name (_ADR, 0x00010000)
                Name (_SUN, 0x01)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x01)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x01) }
            }
            Device (S02)
            {
                Name (_ADR, 0x00020000)
                Name (_SUN, 0x02)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x02)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x02) }
            }
            Device (S03)
            {
                Name (_ADR, 0x00030000)
                Name (_SUN, 0x03)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x03)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x03) }
            }
            Device (S04)
            {
                Name (_ADR, 0x00040000)
                Name (_SUN, 0x04)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x04)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x04) }
            }
            Device (S05)
            {
                Name (_ADR, 0x00050000)
                Name (_SUN, 0x05)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x05)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x05) }
            }
            Device (S06)
            {
                Name (_ADR, 0x00060000)
                Name (_SUN, 0x06)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x06)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x06) }
            }
            Device (S07)
            {
                Name (_ADR, 0x00070000)
                Name (_SUN, 0x07)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x07)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x07) }
            }
            Device (S08)
            {
                Name (_ADR, 0x00080000)
                Name (_SUN, 0x08)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x08)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x08) }
            }
            Device (S09)
            {
                Name (_ADR, 0x00090000)
                Name (_SUN, 0x09)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x09)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x09) }
            }
            Device (S0A)
            {
                Name (_ADR, 0x000A0000)
                Name (_SUN, 0x0A)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x0A)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x0A) }
            }
            Device (S0B)
            {
                Name (_ADR, 0x000B0000)
                Name (_SUN, 0x0B)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x0B)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x0B) }
            }
            Device (S0C)
            {
                Name (_ADR, 0x000C0000)
                Name (_SUN, 0x0C)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x0C)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x0C) }
            }
            Device (S0D)
            {
                Name (_ADR, 0x000D0000)
                Name (_SUN, 0x0D)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x0D)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x0D) }
            }
            Device (S0E)
            {
                Name (_ADR, 0x000E0000)
                Name (_SUN, 0x0E)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x0E)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x0E) }
            }
            Device (S0F)
            {
                Name (_ADR, 0x000F0000)
                Name (_SUN, 0x0F)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x0F)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x0F) }
            }
            Device (S10)
            {
                Name (_ADR, 0x00100000)
                Name (_SUN, 0x10)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x10)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x10) }
            }
            Device (S11)
            {
                Name (_ADR, 0x00110000)
                Name (_SUN, 0x11)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x11)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x11) }
            }
            Device (S12)
            {
                Name (_ADR, 0x00120000)
                Name (_SUN, 0x12)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x12)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x12) }
            }
            Device (S13)
            {
                Name (_ADR, 0x00130000)
                Name (_SUN, 0x13)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x13)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x13) }
            }
            Device (S14)
            {
                Name (_ADR, 0x00140000)
                Name (_SUN, 0x14)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x14)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x14) }
            }
            Device (S15)
            {
                Name (_ADR, 0x00150000)
                Name (_SUN, 0x15)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x15)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x15) }
            }
            Device (S16)
            {
                Name (_ADR, 0x00160000)
                Name (_SUN, 0x16)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x16)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x16) }
            }
            Device (S17)
            {
                Name (_ADR, 0x00170000)
                Name (_SUN, 0x17)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x17)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x17) }
            }
            Device (S18)
            {
                Name (_ADR, 0x00180000)
                Name (_SUN, 0x18)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x18)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x18) }
            }
            Device (S19)
            {
                Name (_ADR, 0x00190000)
                Name (_SUN, 0x19)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x19)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x19) }
            }
            Device (S1A)
            {
                Name (_ADR, 0x001A0000)
                Name (_SUN, 0x1A)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x1A)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x1A) }
            }
            Device (S1B)
            {
                Name (_ADR, 0x001B0000)
                Name (_SUN, 0x1B)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x1B)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x1B) }
            }
            Device (S1C)
            {
                Name (_ADR, 0x001C0000)
                Name (_SUN, 0x1C)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x1C)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x1C) }
            }
            Device (S1D)
            {
                Name (_ADR, 0x001D0000)
                Name (_SUN, 0x1D)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x1D)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x1D) }
            }
            Device (S1E)
            {
                Name (_ADR, 0x001E0000)
                Name (_SUN, 0x1E)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x1E)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x1E) }
            }
            Device (S1F)
            {
                Name (_ADR, 0x001F0000)
                Name (_SUN, 0x1F)
                Method (_STA, 0, NotSerialized) { Return (HSTA (0x1F)) }
                Method (_EJ0, 1, NotSerialized) { HEJC (0x1F) }
            }
        }

        // The ECAM: without a device that claims it Linux doesn't use the MCFG.
        Device (ECAM)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
            })
        }

        // The ACPI registers: PM1 and timer, GPE0, hot plug.
        Device (PMIO)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x0C)
                IO (Decode16, 0x0620, 0x0620, 0x01, 0x04)
                IO (Decode16, 0x0640, 0x0640, 0x01, 0x0C)
            })
        }

        // The panic device, as guests of QEMU know it.
        Device (PEVT)
        {
            Name (_HID, "QEMU0001")
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0505, 0x0505, 0x01, 0x01)
            })
            OperationRegion (PEOR, SystemIO, 0x0505, 0x01)
            Field (PEOR, ByteAcc, NoLock, Preserve)
            {
                PEPT, 8
            }
            Name (_STA, 0x0F)
            Method (RDPT, 0, NotSerialized)
            {
                Return (PEPT)
            }
            Method (WRPT, 1, NotSerialized)
            {
                PEPT = Arg0
            }
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
                IRQNoFlags () {4}
            })
        }

        Device (RTC0)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
                IRQNoFlags () {8}
            })
        }
    }

    // The event of hot plug.
    Scope (\_GPE)
    {
        Method (_E01, 0, NotSerialized)
        {
            \_SB.PCI0.HSCN ()
        }
    }

    // Soft off: SLP_TYPa is ACPI_SLEEP_TYPE_S5.
    Name (\_S5, Package (4) {5, 0, 0, 0})
}
